"""Signing in with INDIGO-IAM. Client id and secret are in OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET."""

from interlink_spawner.iam import iam_groups

# Any provider of OpenID Connect would do; groups are where INDIGO-IAM has them.
c.JupyterHub.authenticator_class = "generic-oauth"
# The button on the sign-in page.
c.GenericOAuthenticator.login_service = "IAM"
# Where browsers are sent, where the hub gets tokens, and where it asks who somebody is.
c.GenericOAuthenticator.authorize_url = "https://iam.example.org/authorize"
c.GenericOAuthenticator.token_url = "https://iam.example.org/token"
c.GenericOAuthenticator.userdata_url = "https://iam.example.org/userinfo"
# As it was registered with the client.
c.GenericOAuthenticator.oauth_callback_url = "https://hub.example.org/hub/oauth_callback"
c.GenericOAuthenticator.scope = [
    "openid",
    "profile",
    "email",
    # Tokens can be renewed while users work.
    "offline_access",
    # Who may use which profile.
    "wlcg.groups",
    # For tokens.py: what jobs at sites of kind htcondor-ce need. Without such a site, drop these four.
    "compute.create",
    "compute.read",
    "compute.modify",
    "compute.cancel",
]
# Names of users are names of folders and volumes: a claim that users cannot change.
c.GenericOAuthenticator.username_claim = "preferred_username"
# Groups of the hub are those of the IAM; profiles of the catalog name them.
c.GenericOAuthenticator.manage_groups = True
# Where the IAM says them: in a claim whose name has a dot, which no string can express here.
c.GenericOAuthenticator.auth_state_groups_key = iam_groups
# Tokens of users, encrypted in the hub's database by the key in JUPYTERHUB_CRYPT_KEY.
c.GenericOAuthenticator.enable_auth_state = True
# Who may sign in; without any such rule nobody can.
c.GenericOAuthenticator.allowed_groups = {"/highrate"}
# Who sees everybody's sessions.
c.GenericOAuthenticator.admin_groups = {"/highrate/admins"}
