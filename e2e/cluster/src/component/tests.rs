use super::*;

/// The whole control plane as it is started, to be read as a reviewer would: one flag a line.
#[test]
fn the_control_plane_starts_as_reviewed() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::ensure(&dir.path().join("pki"), Ipv4Addr::new(198, 18, 7, 2)).unwrap();
    let bin = |program: &str| PathBuf::from("/bin").join(program);
    let inputs = Inputs {
        bin: &bin,
        pki: &pki,
        config: Path::new("/config"),
        etcd_data: "/etcd".into(),
        control: Ipv4Addr::new(198, 18, 7, 2),
        durable: false,
    };
    let all = [etcd, apiserver, controller_manager, scheduler, kubelet, proxy, dns].map(|make| make(&inputs));
    let mut text = String::new();
    for component in &all {
        text += &format!("{}\n  ready: {}\n", component.words.join("\n  "), component.ready);
    }
    text += &format!("---\n{}", kubelet_config(&pki, "/selvedge-abc", Path::new("/config/resolv.conf")));
    let text = text.replace(&dir.path().display().to_string(), "");
    assert_eq!(text, include_str!("../goldens/control_plane.txt"));

    let durable = etcd(&Inputs { durable: true, ..inputs });
    assert!(
        !durable.words.contains(&"--unsafe-no-fsync".to_owned()),
        "durable means that etcd waits for the disk"
    );
}
