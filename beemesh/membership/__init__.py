"""Who is alive: SWIM with Lifeguard over the roster that the mesh CA signed."""
