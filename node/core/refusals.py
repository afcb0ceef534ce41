"""The exact texts with which requests are refused; clients compare some of them byte by byte.

Source: the streaming protocol, "Error strings".
"""

from __future__ import annotations

from collections.abc import Sequence

# connecting
INVALID_CONNECT = "stan: invalid connection request"
INVALID_CLIENT_ID = "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
CLIENT_ID_TAKEN = "stan: clientID already registered"
CLIENT_REPLACED = "client has been replaced or is no longer registered"
"""The answer to a ping; without the ``stan: `` of all the others."""

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

# ours alone
MESSAGE_TOO_LONG = "stan: message too long to be delivered"
"""To a publisher behind another NATS server: what it takes isn't enough for the message as delivered."""
TOO_LATE = ""
"""A request whose client has given up already (rule R8): nobody reads the text."""
TOO_MANY_CLIENTS = "stan: too many clients"
"""One connection, or the whole cluster, has as many client IDs as it may."""
UNDECODABLE = "stan: undecodable request"
"""A command that apply can't read (rule R22): a bug of the node it came from, never of a client."""
NO_LEADER = (
    "stan: the cluster has no leader: nothing was stored or changed; try again, here or at another node"
)
"""A node that reaches no leader (rule R8). Never the outcome of a command: it was not given to anybody."""
STOPPING = (
    "stan: this node stops: nothing was stored or changed; try again, at another node or when it is back"
)
"""A node that stops, and has nobody to pass a request on to."""
NOT_YET = "stan: not every node of the cluster has a release that can do this"
"""The command belongs to a machine version that is not in effect yet (rule R24)."""
INVALID_CONFIGURATION = "stan: invalid configuration"

# administration: read by operators
ADMIN_TOO_LATE = "too late: whoever asked has given up, and nothing was changed"
NO_CURSOR = "only a durable subscription and a queue group can be moved: a plain one keeps no place"
UNKNOWN_PLACE = "there is no such place to move to"


def no_space(nodes: Sequence[str]) -> str:
    """The answer to a publish while the disks of ``nodes`` are nearly full."""
    disks = f"the disk of {nodes[0]} is" if len(nodes) == 1 else f"the disks of {', '.join(nodes)} are"
    return f"stan: no space left: {disks} nearly full"


def no_channel(name: str) -> str:
    return f'there is no channel "{name}"'


def no_subscription(number: int) -> str:
    return f"there is no subscription {number}"


def no_client(client_id: str) -> str:
    return f'there is no client "{client_id}"'


def in_use(count: int) -> str:
    """The clients of online subscriptions would not learn of their end: the protocol has no word for it."""
    online = "1 online subscription" if count == 1 else f"{count} online subscriptions"
    return f"{online} would end without the client being told: close it there, or use force"


def other_case(name: str, existing: str) -> str:
    """Channels whose names differ only in case are refused; the misspelling is the protocol's own."""
    return (
        f'rejecting channel "{name}" because channel "{existing}" alreay exists (different cases not allowed)'
    )
