"""Every message that travels between nodes, by its number. Numbers are for ever: a retired one is not used again.

Rooms: 1–19 membership, 20–29 topics, 30–39 leases and records, 40–49 intents, 50–59 scheduling, 60–69 custody,
70–79 observation, 80–89 what agents relay for the API.
"""

from __future__ import annotations

import msgspec

from beemesh.custody import messages as custody
from beemesh.dht import messages as records
from beemesh.intents import messages as intents
from beemesh.membership import messages as membership
from beemesh.scheduling import messages as scheduling
from beemesh.topics import messages as topics
from beemesh.undecodable import UNDECODABLE
from beemesh.wire import relay
from beemesh.workloads import observation

TYPES: dict[int, type[msgspec.Struct]] = {
    1: membership.Ping,
    2: membership.Ack,
    3: membership.PingReq,
    4: membership.Nack,
    5: membership.Claims,
    6: membership.PushPull,
    7: membership.PushPullAnswer,
    8: membership.FetchGossipKey,
    9: membership.GossipKeyAnswer,
    10: membership.Introduction,
    20: topics.TopicMessage,
    21: topics.IHave,
    22: topics.IWant,
    23: topics.Chunk,
    24: topics.ChunkWant,
    25: topics.Graft,
    26: topics.Prune,
    27: topics.Neighbour,
    28: topics.Disconnect,
    29: topics.Shuffle,
    30: scheduling.CompareAndSwap,
    31: scheduling.CasAnswer,
    32: scheduling.GetLease,
    33: scheduling.LeaseAnswer,
    34: records.StoreRecord,
    35: records.RecordStored,
    36: records.FindRecords,
    37: records.FoundRecords,
    38: records.Question,
    39: records.Answer,
    40: intents.IntentNews,
    41: intents.FetchIntents,
    42: intents.FetchMembers,
    43: intents.IntentRecords,
    44: intents.PushIntents,
    45: intents.IntentsAck,
    46: intents.SyncIntents,
    47: intents.IntentDigests,
    50: scheduling.SignedTask,
    51: scheduling.SignedBid,
    52: scheduling.SignedEvent,
    53: scheduling.SilenceQuestion,
    54: scheduling.SilenceAnswer,
    55: scheduling.CallForBids,
    56: scheduling.Offer,
    57: scheduling.Award,
    58: scheduling.SignedTaskDigest,
    59: scheduling.EventTaken,
    60: custody.StoreManifest,
    61: custody.StoreShare,
    62: custody.Stored,
    63: custody.FetchManifest,
    64: custody.ManifestAnswer,
    65: custody.ReleaseRequest,
    66: custody.ReleaseAnswer,
    70: observation.ListReplicas,
    71: observation.ReplicaList,
    72: observation.StopReplica,
    73: observation.StopAnswer,
    74: scheduling.SignedEventWatch,
    75: scheduling.ListEvents,
    76: scheduling.EventList,
    80: relay.RelayedRequest,
    81: relay.RelayedHead,
    82: relay.RelayedData,
}

CODES: dict[type[msgspec.Struct], int] = {kind: code for code, kind in TYPES.items()}

_encoder = msgspec.msgpack.Encoder()
_decoders = {code: msgspec.msgpack.Decoder(kind) for code, kind in TYPES.items()}


def encode_message(message: msgspec.Struct) -> tuple[int, bytes]:
    """(number of its type, encoded body)."""
    return CODES[type(message)], _encoder.encode(message)


def decode_message(code: int, body: bytes) -> msgspec.Struct | None:
    """The message, or None when its type is unknown here (a newer peer) or it does not decode. Never raises."""
    decoder = _decoders.get(code)
    if decoder is None:
        return None
    try:
        return decoder.decode(body)
    except UNDECODABLE:
        return None
