"""Who is who: keys, the mesh CA's statements about nodes and operators, certificates and signatures."""
