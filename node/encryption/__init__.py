"""Encryption at rest: the keys of a node's directory, and what seals and opens its journal and store.

Three kinds of secrets, each protecting the next:

* *pass phrases*, from the configuration: the current one and, while it is being changed, those before;
* the *master*, 32 random bytes, in ``encryption.json`` once for each pass phrase: encrypted under what scrypt
  makes of that pass phrase and a random salt. It opens under no other, which is how a wrong pass
  phrase is told at once;
* *data keys*, 32 random bytes with a random id, in ``encryption.json`` encrypted under the master. The last
  one writes, all read.

So a pass phrase is changed without touching the data: a new master encrypts the old data keys and one
more, which writes from then on. Who once knew the old pass phrase *and* has a copy of the old file can
read what was sealed until then, and nothing later.

Data keys are drawn by each directory for itself, so no two nodes ever write under one key. A snapshot is a
copy of another node's store, and what it is sealed with travels with it: `Keyring.export` is that node's
``encryption.json``, as useless without a pass phrase as it is on the disk, and `Keyring.adopt` adds
its data keys to those that are read here. All nodes therefore need a pass phrase in common.

``value_cipher`` seals and opens values, ``document`` is what the file says, ``keyring`` opens it, renews it
and adopts others' keys; ``ciphers`` stands under all of them.
"""
