"""`tocsin init`: a first configuration from what a server holds, or from the configuration of another tool."""
