"""Values that switch each part of the chart on, on top of the CPU profile."""

from __future__ import annotations

from typing import Any

_STORES = {
    "postgres": {"peers": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "port": 5433},
    "redis": {"peers": [{"ipBlock": {"cidr": "10.0.1.0/24"}}], "port": 6379},
}

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "long name": {"nameOverride": "a" * 47},
    "digest": {"image": {"digest": "sha256:" + "0" * 64}},
    "own catalogue": {
        "model": {
            "catalogText": "models: {m: {checkpoint: /models/x, resources: {num_gpus: 2}, "
            "context_window: 8, max_images: 1, engine: {max_num_seqs: 10}}}",
            "source": "claim",
            "claim": "weights",
        }
    },
    "hugging face": {
        "model": {
            "catalog": "l40s-fp8",
            "source": "huggingFace",
            "huggingFace": {"revision": "0" * 40, "tokenSecret": {"name": "hub"}},
        }
    },
    "https": {
        "model": {
            "catalog": "80gb-bf16",
            "source": "https",
            "claim": "weights",
            "https": {
                "url": "https://store.example/m",
                "sums": "0" * 64,
                "authorizationSecret": {"name": "store"},
            },
        }
    },
    "s3": {
        "model": {
            "catalog": "80gb-bf16",
            "source": "s3",
            "s3": {
                "url": "s3://models/llama",
                "sums": "0" * 64,
                "endpoint": "https://store.example",
                "credentialsSecret": "store",
            },
        }
    },
    "adapters and prices": {
        "tenancy": {"enabled": True, "prices": "mine: {m: {input: 1, cached_input: 1, output: 2}}"},
        "settings": {"PRICES": "/etc/llama-vision/prices/prices.yaml#mine"},
        "state": {"create": True},
        "adapters": {"claim": "adapters"},
        "networkPolicy": _STORES,
    },
    "tenancy": {
        "tenancy": {"enabled": True},
        "state": {"create": True, "storageClassName": "nfs"},
        "networkPolicy": _STORES,
    },
    "stores of others": {
        "tenancy": {
            "enabled": True,
            "databaseSecret": {"name": "accounts-app", "key": "uri"},
            "redisSecret": {"name": "limits", "key": "url"},
        },
        "trust": {"configMap": "ca"},
        "state": {"create": True},
        "networkPolicy": _STORES,
    },
    "external secrets": {
        "secrets": {
            "externalSecrets": {
                "enabled": True,
                "store": "s",
                "serviceEntry": "a",
                "rayEntry": "b",
            }
        }
    },
    "fault tolerance": {
        "gcsFaultTolerance": {
            "enabled": True,
            "redisAddress": "rediss://redis:6379",
            "passwordSecret": {"name": "redis"},
        },
        "networkPolicy": {"redis": _STORES["redis"]},
    },
    "one fixed replica": {"replicas": {"min": 1, "max": 1, "surgePercent": 0}},
    "budget": {"replicas": {"min": 3, "max": 3}, "disruption": {"minAvailableWorkers": 2}},
    "incremental": {
        "upgrade": {"strategy": "NewClusterWithIncrementalUpgrade", "gatewayClassName": "g"}
    },
    "load balancer": {"service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}},
    "route": {
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["ai.example"]}
    },
    "ingress": {
        "ingress": {"enabled": True, "className": "c", "host": "ai.example", "tlsSecret": "tls"}
    },
    "priority": {"priorityClass": {"name": "high", "create": True}},
    "pod monitor": {"monitoring": {"podMonitor": True, "labels": {"release": "p"}}},
    "service monitor": {
        "monitoring": {
            "serviceMonitor": True,
            "tokenSecret": {"name": "llama-vision", "key": "METRICS_TOKEN"},
        }
    },
    "rules and dashboards": {"monitoring": {"rules": True, "dashboards": True}},
    "no policies": {"networkPolicy": {"enabled": False}},
    "settings": {
        "settings": {"MAX_BODY_BYTES": 1048576, "STREAM_PADDING": True, "QUEUE_SECONDS": 2.5}
    },
    "trust": {"trust": {"configMap": "ca"}, "image": {"pullSecrets": ["registry"]}},
}
