//! Writes `seeds/`, where fuzzing begins: one file for each golden.

#[path = "../tests/wire/golden.rs"]
#[allow(dead_code)]
mod golden;
#[path = "../tests/wire/roots.rs"]
#[allow(dead_code)]
mod roots;

fn main() -> std::io::Result<()> {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    std::fs::create_dir_all(&seeds)?;
    for ((message, name), golden) in golden::read() {
        let which = roots::ROOTS.iter().position(|root| root.name == message).expect("a root");
        let seed = [&[which as u8], &*golden.bytes].concat();
        std::fs::write(seeds.join(format!("{message} {name}").replace(' ', "-")), seed)?;
    }
    Ok(())
}
