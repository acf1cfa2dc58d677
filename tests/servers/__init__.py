"""Real servers on loopback for the tests of object stores: an S3 server, a faulty network, a web server."""
