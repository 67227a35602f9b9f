"""How bytes travel between agents: UDP datagrams, and mutual-TLS streams on the same port number."""
