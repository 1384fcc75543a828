"""The deployment: a CDK app, one construct a capability, and what it deploys."""
