//! The chart works as installed: with its own ServiceAccounts and nothing by hand.

use selvedge_stories::{Installed, Outcome, World, expect};

pub fn comes_up_with_its_own_service_accounts(world: &World) -> Outcome {
    world.install(Installed { chart: &world.file("charts/selvedge"), words: &[] })?;
    let pods = world.tools.kubectl(&["-n", "selvedge-system", "get", "pods", "--no-headers"])?;
    let ready = |line: &&str| line.contains(" 1/1 ") || line.split_whitespace().nth(1) == Some("1/1");
    expect("eight pods are ready", pods.lines().filter(ready).count() == 8, &pods)?;
    let restarted = |line: &&str| line.split_whitespace().nth(3) != Some("0");
    expect("none of them was restarted", !pods.lines().any(|line| restarted(&line)), &pods)?;
    world.tools.helm(&["test", "selvedge", "--namespace", "selvedge-system"])?;
    // Installing again changes nothing and fails nothing.
    world.install(Installed { chart: &world.file("charts/selvedge"), words: &[] })?;
    Ok(())
}
