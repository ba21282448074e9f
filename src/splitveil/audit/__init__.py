"""The privacy card: everything measured about one trained split model, judged against a policy."""
