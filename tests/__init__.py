"""Everything that Beemesh promises, as tests; `make test` runs them all."""
