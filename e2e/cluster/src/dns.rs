//! Cluster DNS: CoreDNS as a process of the control host, behind the Service that kubelet tells every pod
//! about. A process and not a pod, so that it needs no image and is there before the first pod.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::component::DNS_SERVICE_IP;

/// CoreDNS' configuration: the cluster's own names and no others, because pods reach no resolver outside.
pub fn corefile(kubeconfig: &Path) -> String {
    format!(
        ".:53 {{
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {}
    }}
    cache 5
}}
",
        kubeconfig.display()
    )
}

/// The Service and its one endpoint, as `kubectl apply` takes them.
pub fn service(control: Ipv4Addr) -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {DNS_SERVICE_IP}
  ports:
  - {{name: dns, protocol: UDP, port: 53}}
  - {{name: dns-tcp, protocol: TCP, port: 53}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: kube-dns, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}
addressType: IPv4
endpoints:
- {{addresses: ["{control}"], conditions: {{ready: true}}}}
ports:
- {{name: dns, protocol: UDP, port: 53}}
- {{name: dns-tcp, protocol: TCP, port: 53}}
"#
    )
}
