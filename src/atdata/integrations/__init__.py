"""What other packages take over: one module each, imported only when it is asked for."""
