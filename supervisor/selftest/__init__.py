"""`corral selftest`: what hostile agents can do on this machine, found out by letting them try.

examination.py starts a real server of its own (private_server.py) on a folder of its own (traps.py), submits the probes
(probes.py) over HTTP (client.py) and judges what became of them (checks.py). What the agent does is in hostile/.
"""
