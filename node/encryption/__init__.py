"""Encryption at rest: the keys of a node's directory, and the cipher of its journal and store.

There are three kinds of secrets, each protecting the next:

* *pass phrases*, from the configuration: the current one and, while it is being changed, earlier ones;
* the *master*, 32 random bytes, stored once for each pass phrase: encrypted under a key that scrypt derives
  from that pass phrase and a random salt. No other key decrypts it, so a wrong pass phrase is detected at
  once;
* *data keys*, 32 random bytes with a random id, stored encrypted under the master. The last one encrypts,
  all decrypt.

So a pass phrase is changed without rewriting data: a new master encrypts the old data keys and a new one,
which encrypts from then on. A person with the old pass phrase *and* a copy of the old file can read what was
encrypted until then, and nothing later.

Each directory draws its own data keys, so no two nodes ever encrypt with the same key. A snapshot is a copy
of another node's store, and is sent with that node's keys: `Keyring.export` is that node's key file, useless
without a pass phrase, and `Keyring.adopt` adds its data keys to those that decrypt here. So all nodes need a
pass phrase in common.

``value_cipher`` encrypts and decrypts values, ``document`` is the format of the key file, ``keyring`` opens
and renews it and adopts other nodes' keys. All use ``ciphers``.
"""
