//! Passes the order of functions to the linker.

#![allow(clippy::disallowed_methods, reason = "Cargo passes the profile and the target in variables")]

fn main() {
    println!("cargo:rerun-if-changed=linker/order.ld");
    let is = |name, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    // Other systems have other linkers. mold reads no such scripts (<https://github.com/rui314/mold/issues/243>).
    let is_mold = std::env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("mold"));
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !is_mold {
        let folder = env!("CARGO_MANIFEST_DIR");
        println!("cargo:rustc-link-arg-bin=casebridge=-T{folder}/linker/order.ld");
    }
}
