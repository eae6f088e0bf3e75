"""Orders from placing to the release of the money, with returns, refunds and credit notes."""
