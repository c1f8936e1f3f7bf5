"""The vault: originals of tokens, sealed by the road, and given back on the record only."""
