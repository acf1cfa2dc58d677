"""How samples lie in one tar file: archive, manifest, writer, reader."""
