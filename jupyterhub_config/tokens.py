"""Tokens for sites whose jobs run as their user (htcondor-ce), made from the user's sign-in."""

from interlink_spawner import broker

# A refresh that fails locks nobody out of what runs: JupyterHub before 6.1 would.
c.OAuthenticator.refresh_user_hook = broker.keep_signed_in
# What the catalog calls this hub's sign-in service, as the issuer of a site's credential.
c.TokenBroker.issuer = "iam"
