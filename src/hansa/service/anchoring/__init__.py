"""Each chain's checkpoints, recorded by the anchor chain, so that no past is rewritten unseen."""
