#!/usr/bin/env bash
# With Pacemaker instead of keepalived: an address on the machine whose coordinator leads. Run once, on one machine of a
# cluster made by pcs, after wharf-leader-attribute.service runs on each. Pacemaker moves the address and nothing else:
# it neither starts nor stops coordinators, who decide among themselves which of them leads.
set -euo pipefail
address=${1:?usage: address.sh ADDRESS/BITS, e.g. 10.0.0.10/24}
pcs resource create wharf-address ocf:heartbeat:IPaddr2 ip="${address%/*}" cidr_netmask="${address#*/}" \
    op monitor interval=5s --disabled
pcs constraint location wharf-address rule score=-INFINITY wharf_leader ne 1 or not_defined wharf_leader
pcs resource enable wharf-address
