"""Signing in without any sign-in service, to try things out: passwords that all users share.

The passwords are not here: SharedPasswordAuthenticator.user_password and .admin_password.
"""

# Not the hub's "dummy", whose one password, if there is one at all, makes anybody an admin.
c.JupyterHub.authenticator_class = "shared-password"
# Two who may use different profiles, and one who sees what all do.
c.Authenticator.allowed_users = {"alice", "grace"}
c.Authenticator.admin_users = {"ada"}
# Without a sign-in service, groups are said here.
c.JupyterHub.load_groups = {
    "highrate": {"users": ["alice"]},
    "gpu": {"users": ["grace"]},
}
