"""The fields of other people's kinds that the chart writes, as their API references name them.

KubeRay 1.7 (ray.io/v1), Gateway API 1.4, Prometheus operator 0.80, External Secrets 0.16. A leaf is
a type, the values that a field may have, or ANY where another test knows the type; `[...]` is a
list. What the chart writes and is not here is a typing error.
"""

from __future__ import annotations

from typing import Any

ANY = object()
Strings = dict[str, str]

_SECRET = {"valueFrom": {"secretKeyRef": {"name": str, "key": str}}}
_ENDPOINTS = [
    {
        "port": ANY,
        "interval": ANY,
        "relabelings": ANY,
        "authorization": {"credentials": {"name": ANY, "key": ANY}},
    }
]
_GROUP = {"rayStartParams": Strings, "template": ANY}

FIELDS: dict[str, dict[str, Any]] = {
    "RayService": {
        "serveConfigV2": str,
        "excludeHeadPodFromServeSvc": bool,
        "rayClusterDeletionDelaySeconds": int,
        "serveService": {
            "metadata": {"name": str, "annotations": Strings},
            "spec": {"type": ANY, "ports": ANY},
        },
        "upgradeStrategy": {
            "type": {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"},
            "clusterUpgradeOptions": {
                "gatewayClassName": str,
                "maxSurgePercent": int,
                "stepSizePercent": int,
                "intervalSeconds": int,
            },
        },
        "rayClusterConfig": {
            "rayVersion": str,
            "authOptions": {"mode": {"token", "disabled"}, "secretName": str},
            "gcsFaultToleranceOptions": {"redisAddress": str, "redisPassword": _SECRET},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {
                "version": {"v1", "v2"},
                "upscalingMode": {"Default", "Aggressive", "Conservative"},
                "idleTimeoutSeconds": int,
                "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
                "env": ANY,
                "resources": ANY,
                "securityContext": ANY,
                "volumeMounts": ANY,
            },
            "headGroupSpec": {"serviceType": {"ClusterIP", "NodePort", "LoadBalancer"}, **_GROUP},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "numOfHosts": int,
                    "scaleStrategy": {"workersToDelete": [str]},
                    **_GROUP,
                }
            ],
        },
    },
    "HTTPRoute": {
        "parentRefs": [{"name": ANY, "namespace": ANY, "sectionName": ANY, "port": ANY}],
        "hostnames": ANY,
        "rules": [
            {
                "matches": [{"path": {"type": ANY, "value": ANY}}],
                "timeouts": {"request": ANY, "backendRequest": ANY},
                "backendRefs": [{"name": ANY, "port": ANY}],
            }
        ],
    },
    "PodMonitor": {"jobLabel": ANY, "selector": ANY, "podMetricsEndpoints": _ENDPOINTS},
    "ServiceMonitor": {"jobLabel": ANY, "selector": ANY, "endpoints": _ENDPOINTS},
    "PrometheusRule": {"groups": ANY},
    "ExternalSecret": {
        "refreshInterval": ANY,
        "secretStoreRef": {"name": ANY, "kind": ANY},
        "target": {"name": ANY, "creationPolicy": ANY},
        "dataFrom": [{"extract": {"key": ANY}}],
    },
}


def wrong(value: Any, fields: Any, path: str = "spec") -> list[str]:
    """The paths in `value` that are not in `fields`, or hold something of another type."""
    if isinstance(fields, list):
        return [
            found
            for index, item in enumerate(value)
            for found in wrong(item, fields[0], f"{path}[{index}]")
        ]
    if isinstance(fields, dict):
        return [
            found
            for key, item in value.items()
            for found in (
                wrong(item, fields[key], f"{path}.{key}") if key in fields else [f"{path}.{key}"]
            )
        ]
    return [] if _fits(value, fields) else [path]


def _fits(value: Any, leaf: Any) -> bool:
    if leaf is ANY:
        return True
    if leaf is Strings:
        return all(type(each) is str for each in value.values())
    return value in leaf if isinstance(leaf, set) else type(value) is leaf
