//! Passes the order of functions to the linker.

// Cargo gives its answers in the environment.
#![allow(clippy::disallowed_methods)]

fn main() {
    println!("cargo:rerun-if-changed=linker/order.ld");
    let is = |name, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    // Other systems have other linkers.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") {
        let folder = env!("CARGO_MANIFEST_DIR");
        println!("cargo:rustc-link-arg-bin=casebridge=-Wl,-T,{folder}/linker/order.ld");
    }
}
