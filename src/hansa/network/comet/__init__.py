"""Many organisations agree on the order of transactions by CometBFT, each running its own node.

The engine is a process of its own, in Go. It asks our application over ABCI 2.0, and we ask it over
its RPC.
"""
