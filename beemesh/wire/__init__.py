"""Bytes on the network: datagrams, envelopes, the message registry, replay protection and admission."""
