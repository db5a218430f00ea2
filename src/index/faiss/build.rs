//! Compiles the C++ shim against the headers that faiss-sys installs, for the same processors as FAISS itself.

fn main() {
    const SOURCES: [&str; 12] = [
        "kernels.cpp",
        "bits.cpp",
        "codes.cpp",
        "signs.cpp",
        "vectors.cpp",
        "graph.cpp",
        "nodes.cpp",
        "lists.cpp",
        "search.cpp",
        "rank.cpp",
        "among.cpp",
        "ranges.cpp",
    ];
    const HEADERS: [&str; 8] = [
        "shim.h",
        "kernels.h",
        "codes.h",
        "signs.h",
        "vectors.h",
        "distance.h",
        "graph.h",
        "rank.h",
    ];
    let folder = std::path::Path::new("src/index/faiss");
    for file in SOURCES.iter().chain(&HEADERS).chain(&["build.rs"]) {
        println!("cargo:rerun-if-changed={}", folder.join(file).display());
    }
    // Set by faiss-sys (`links = "faiss_c"`), which is why it is a direct dependency.
    let root = std::env::var("DEP_FAISS_C_ROOT");
    let root = root.expect("faiss-sys with the `static` feature names its folder");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(std::path::Path::new(&root).join("include"))
        .files(SOURCES.map(|file| folder.join(file)))
        .flag("-march=x86-64-v3")
        .opt_level(3)
        .flag("-fno-math-errno")
        .warnings(true)
        // GCC 12's own AVX-512 header has them; FAISS's headers have the others.
        .flag_if_supported("-Wno-uninitialized")
        .flag_if_supported("-Wno-maybe-uninitialized")
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-sign-compare")
        .compile("rektor_shim");
}
