"""The spool: the folder that keeps every acknowledged instance until it is stored; this room alone opens their files.

```
received/{lane}/               a folder for each worker: `.part` files are being received, and nothing of them was
                               acknowledged; `.dcm` files are acknowledged instances, ordinary Part 10 files;
                               `.segment` files hold small ones, `.at` and `.end` are notes on them
received/unpacked/             those small ones as files, which the deliverer makes of them
delivering/{delivery}/         instances of a delivery, and its manifest once it is closed
delivering/{delivery}.stored/  what is left of a delivery that is in the store, about to be removed
quarantined/                   what cannot be delivered, each beside a .reason file; `.damaged` is a segment
ballast                        space that is given up where the volume is full, for the notes that make room
spares/                        files of stored deliveries, to be written over: no instances any more
associations/                  how the associations stand that stored something
transfers/{transfer}/          images that the cloud sends back, on their way to a destination (`transfers`): copies
```

A received file's name holds what the file cannot: `{association}_{number}_{peer}_{sha256}.dcm`. So a start needs no
memory of the last run, and a file whose bytes do not match its name is never taken for an instance. What cannot be
read, or is not ours, is set aside and stops nothing.

- **lane**: the folder of one worker, into which nobody else receives (`lane`).
- **segment**: a file of fixed size in a lane, into which small instances are appended (`segments`, `rotation`).
- **record**: one instance in a segment (`records`); the deliverer unpacks it to a file (`unpacker`).
- **spare**: the file of a stored instance, written over by a new one of about its size (`spares`).
- **note**: what a process says to the next of a segment, and may be lost (`notes`).
- **the deliverer's folders**: all but the lanes' insides (`folders`); who only looks uses `view`, and makes nothing.
"""
