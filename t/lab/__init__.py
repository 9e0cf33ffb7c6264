"""The lab: everything around ngx-keel, for real, on one machine.

Every server is a small class with start(), wait_ready(), stop(), kill() and restart(); it listens on
loopback on a free port, keeps its files in a folder of its own, and is ended by its own process id.

    process.py     what a server is
    etcd.py, kubernetes.py   a control plane; client.py talks to it
    node.py        containerd and kubelet: a node that runs pods
    registry.py    upstream registry and pull-through registry
    images.py      images out of busybox, with content that tells their version
    nginx.py       the cache with the module, from conf/nginx
    keeld.py       keeld and keelctl
    machine.py     what a node changes on the machine, and putting it back
    lab.py         all of it together
"""
