// Reads a list of Kubernetes objects on stdin, writes for each what its type finds wrong with it.
import { readFileSync } from "node:fs";

const folders = {
  "external-secrets.io/v1": "external-secrets",
  "gateway.networking.k8s.io/v1": "gateway-api",
  "monitoring.coreos.com/v1": "prometheus-operator",
};

async function problem(object) {
  const { apiVersion, kind } = object;
  const module = await import(`@kubernetes-models/${folders[apiVersion]}/${apiVersion}/${kind}`);
  try {
    new module[kind](object).validate();
    return "";
  } catch (error) {
    return error.message;
  }
}

const objects = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(objects.map(problem))));
