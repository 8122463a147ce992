"""Files that are somebody's own secrets, or are likely to be, by their names: a package leaves them out.

Patterns as in .gitignore. One that is left out and was wanted is told of; one that was sent cannot be taken
back.
"""

from __future__ import annotations

PRIVATE_FILES = (
    # Variables of the environment; examples of them are meant for others.
    ".env",
    ".env.*",
    "!.env.example",
    "!.env.sample",
    "!.env.template",
    "!.env.dist",
    ".envrc",
    # Keys and certificates with them.
    ".ssh/",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.[pP][eE][mM]",
    "*.[kK][eE][yY]",
    "*.[pP]12",
    "*.[pP][fF][xX]",
    "*.[pP][pP][kK]",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    ".gnupg/",
    ".password-store/",
    # Logins of programs.
    ".netrc",
    "_netrc",
    ".pgpass",
    "pgpass.conf",
    ".my.cnf",
    ".mylogin.cnf",
    ".git-credentials",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".htpasswd",
    ".vault-token",
    ".config/hivemind/",
    # Of clouds and of what runs there.
    ".aws/",
    ".azure/",
    ".oci/",
    ".kube/",
    "kubeconfig",
    ".docker/config.json",
    ".dockercfg",
    ".boto",
    ".s3cfg",
    ".config/gcloud/",
    "application_default_credentials.json",
    "credentials.json",
    "client_secret*.json",
    "service[-_]account*.json",
    ".terraform/",
    "*.tfstate",
    "*.tfstate.*",
    "*.tfvars",
    ".databrickscfg",
    ".snowsql/",
    # Of data and models.
    ".kaggle/",
    "kaggle.json",
    ".huggingface/",
    ".streamlit/secrets.toml",
    # What was typed, and copies that notebooks make of themselves.
    ".*_history",
    ".ipynb_checkpoints/",
)
