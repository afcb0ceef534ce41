"""The exact error texts of refused requests; clients compare some of them byte by byte.

The rolling digest contains the outcomes of ``apply``, so changing the text of an outcome needs a new machine
version (R24).

Source: the streaming protocol, "Error strings".
"""

from __future__ import annotations

from collections.abc import Sequence

# connecting
INVALID_CONNECT = "stan: invalid connection request"
INVALID_CLIENT_ID = "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
CLIENT_ID_TAKEN = "stan: clientID already registered"
CLIENT_REPLACED = "client has been replaced or is no longer registered"
"""The reply to a ping. Unlike all others it does not begin with ``stan: ``."""

# publishing
INVALID_PUBLISH = "stan: invalid publish request"

# subscribing
INVALID_SUBSCRIBE = "stan: invalid subscription request"
CLIENT_ID_MISSING = "stan: clientID missing"
INVALID_ACK_WAIT = "stan: invalid ack wait time, should be >= 1s"
INVALID_MAX_IN_FLIGHT = "stan: invalid MaxInflight, should be >= 1"
INVALID_START = "stan: invalid start position"
INVALID_SUBJECT = "stan: invalid subject"
DURABLE_NAME_COLON = "stan: durable name of a durable queue subscriber can't contain the character ':'"
DUPLICATE_DURABLE = "stan: duplicate durable registration"
TOO_MANY_SUBSCRIPTIONS = "too many subscriptions per channel"

# unsubscribing and closing
INVALID_UNSUBSCRIBE = "stan: invalid unsubscribe request"
UNKNOWN_CHANNEL = "stan: unknown channel"
INVALID_SUBSCRIPTION = "stan: invalid subscription"
INVALID_CLOSE = "stan: invalid close request"
UNKNOWN_CLIENT_ID = "stan: unknown clientID"

# channels
TOO_MANY_CHANNELS = "too many channels"

# not in the protocol
MESSAGE_TOO_LONG = "stan: message too long to be delivered"
"""Sent to a publisher behind an external NATS server whose maximum payload is too small for the delivered
message."""
TOO_LATE = ""
"""A request whose client has given up already (rule R8): the text is not read."""
TOO_MANY_CLIENTS = "stan: too many clients"
"""The maximum number of client IDs is reached, for one connection or for the cluster."""
UNDECODABLE = "stan: undecodable request"
"""A command that apply cannot decode (rule R22): a bug of the node that sent it, never of a client."""
NO_LEADER = (
    "stan: the cluster has no leader: nothing was stored or changed; try again, here or at another node"
)
"""The node reaches no leader (rule R8). Never the outcome of a command: the request was not forwarded."""
STOPPING = (
    "stan: this node is shutting down: nothing was stored or changed; try again, at another node or later"
)
"""The node is shutting down and has no other node to forward the request to."""
NOT_YET = "stan: not every node of the cluster has a release that can do this"
"""The command needs a machine version that is not in effect yet (rule R24)."""
INVALID_CONFIGURATION = "stan: invalid configuration"

# administration: read by operators
ADMIN_TOO_LATE = "too late: whoever asked has given up, and nothing was changed"
NO_CURSOR = "only a durable subscription and a queue group can be moved: a plain one keeps no place"
UNKNOWN_POSITION = "there is no such place to move to"


def no_space(nodes: Sequence[str]) -> str:
    """Return the error for a publish while the disks of ``nodes`` are nearly full."""
    disks = f"the disk of {nodes[0]} is" if len(nodes) == 1 else f"the disks of {', '.join(nodes)} are"
    return f"stan: no space left: {disks} nearly full"


def no_channel(name: str) -> str:
    return f'there is no channel "{name}"'


def no_subscription(number: int) -> str:
    return f"there is no subscription {number}"


def no_client(client_id: str) -> str:
    return f'there is no client "{client_id}"'


def in_use(count: int) -> str:
    """Return the error for ending online subscriptions without force.

    The protocol has no message that notifies their clients.
    """
    online = "1 online subscription" if count == 1 else f"{count} online subscriptions"
    return f"{online} would end without the client being told: close it there, or use force"


def other_case(name: str, existing: str) -> str:
    """Return the error for a channel name that differs from another only in case.

    The misspelling is the protocol's own.
    """
    return (
        f'rejecting channel "{name}" because channel "{existing}" alreay exists (different cases not allowed)'
    )
