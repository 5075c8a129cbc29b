# Deployments of the Mender update client: those that fail, and those that get stuck.
# See docs/deployments.md for what is seen in which mode, and for the state scripts that see the rest.

# One that neither ends nor moves for this long is stuck. An artifact that was installed by hand and waits for its
# commit counts too. 0: never.
DEPLOYMENT_STUCK="2h"
