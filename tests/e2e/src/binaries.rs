//! The product's programs and its image, built by the Makefile before anything of this runs.

use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use testbed::image;

/// Name of the operator's image in the test clusters.
pub const IMAGE: &str = "localhost/data-embassy:test";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The kubectl plugin.
    pub plugin: PathBuf,
    /// The OCI archive of [`IMAGE`].
    pub image: PathBuf,
    /// The repository.
    pub root: PathBuf,
    /// The real helm.
    pub helm: PathBuf,
}

impl Binaries {
    /// Finds the programs (`EMBASSY_STATIC`, `KUBECTL_EMBASSY`: set by the Makefile) and builds the
    /// image from the Containerfile.
    ///
    /// # Errors
    /// A clear line about what is missing.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let plugin = from_env("KUBECTL_EMBASSY")?;
        let image = image_of(&root, &from_env("EMBASSY_STATIC")?)?;
        Ok(Self { plugin, image, root, helm: testbed::cache::helm()? })
    }

    /// The same with the operator that can be made to die and to misjudge time
    /// (`EMBASSY_STATIC_FAULTS`): for tests, never for users.
    ///
    /// # Errors
    /// A clear line about what is missing.
    pub fn with_faults(self) -> Result<Self> {
        let image = image_of(&self.root, &from_env("EMBASSY_STATIC_FAULTS")?)?;
        Ok(Self { image, ..self })
    }
}

/// The image of a program, from the Containerfile that users build theirs from.
fn image_of(root: &Path, program: &Path) -> Result<PathBuf> {
    let folder = program.parent().context("the program has no folder")?;
    let name = program.file_name().context("the program has no name")?;
    let binary = [format!("BINARY={}", name.to_string_lossy())];
    let image = folder.join("image.tar");
    image::containerfile(&root.join("Containerfile"), folder, &binary, IMAGE, &image)
        .with_context(|| format!("cannot build the image of {}", program.display()))?;
    Ok(image)
}

fn from_env(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os(name)
        .with_context(|| format!("{name} is not set: run this by `make demo` or `make test`"))?;
    let path = PathBuf::from(path);
    path.canonicalize().with_context(|| format!("{name}={} is not there", path.display()))
}
