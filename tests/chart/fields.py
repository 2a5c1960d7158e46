"""The fields of other people's kinds that the chart writes, as their API references name them.

KubeRay 1.7 (ray.io/v1), Gateway API 1.4, Prometheus operator 0.80, External Secrets 0.16. A leaf is
anything; `[...]` is a list. What the chart writes and is not here is a typing error.
"""

from __future__ import annotations

from typing import Any

ANY = object()

_SECRET = {"valueFrom": {"secretKeyRef": {"name": ANY, "key": ANY}}}
_ENDPOINTS = [
    {
        "port": ANY,
        "interval": ANY,
        "relabelings": ANY,
        "authorization": {"credentials": {"name": ANY, "key": ANY}},
    }
]
_GROUP = {"rayStartParams": ANY, "template": ANY}

FIELDS: dict[str, dict[str, Any]] = {
    "RayService": {
        "serveConfigV2": ANY,
        "excludeHeadPodFromServeSvc": ANY,
        "rayClusterDeletionDelaySeconds": ANY,
        "serveService": {
            "metadata": {"name": ANY, "annotations": ANY},
            "spec": {"type": ANY, "ports": ANY},
        },
        "upgradeStrategy": {
            "type": ANY,
            "clusterUpgradeOptions": {
                "gatewayClassName": ANY,
                "maxSurgePercent": ANY,
                "stepSizePercent": ANY,
                "intervalSeconds": ANY,
            },
        },
        "rayClusterConfig": {
            "rayVersion": ANY,
            "authOptions": {"mode": ANY, "secretName": ANY},
            "gcsFaultToleranceOptions": {"redisAddress": ANY, "redisPassword": _SECRET},
            "enableInTreeAutoscaling": ANY,
            "autoscalerOptions": {
                "version": ANY,
                "upscalingMode": ANY,
                "idleTimeoutSeconds": ANY,
                "imagePullPolicy": ANY,
                "env": ANY,
                "resources": ANY,
                "securityContext": ANY,
                "volumeMounts": ANY,
            },
            "headGroupSpec": {"serviceType": ANY, **_GROUP},
            "workerGroupSpecs": [
                {
                    "groupName": ANY,
                    "replicas": ANY,
                    "minReplicas": ANY,
                    "maxReplicas": ANY,
                    "numOfHosts": ANY,
                    "scaleStrategy": {"workersToDelete": ANY},
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


def unknown(value: Any, fields: Any, path: str = "spec") -> list[str]:
    """The paths in `value` that are not in `fields`."""
    if fields is ANY:
        return []
    if isinstance(fields, list):
        return [
            found
            for index, item in enumerate(value)
            for found in unknown(item, fields[0], f"{path}[{index}]")
        ]
    return [
        found
        for key, item in value.items()
        for found in (
            unknown(item, fields[key], f"{path}.{key}") if key in fields else [f"{path}.{key}"]
        )
    ]
