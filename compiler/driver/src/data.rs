//! Loading a data set: where decoded images are kept, what is shown meanwhile, and whether it fits a network.
//!
//! Decoded images are kept where the system keeps what can be made again: `$XDG_CACHE_HOME/ffc`, else `~/.cache/ffc`
//! (on Windows the folder of local application data). `FFC_CACHE` names another folder, or is `off`.

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ffc_data::{Dataset, LoadOptions, Rows, Split, Watcher};
use ffc_runtime::Samples;
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;
use crate::commands::say;
use crate::network::Network;

/// Loads a data set and checks it against a network.
///
/// # Errors
/// When it cannot be read or does not fit.
pub fn load(path: &Path, options: &LoadOptions, network: &Network) -> Result<Dataset, Failure> {
    let mut progress = Progress { bar: None };
    let data = ffc_data::load_watched(path, options, &mut progress);
    if let Some(bar) = progress.bar {
        bar.finish_and_clear();
    }
    let data = data?;
    let (given, wanted) = (data.train.width(), network.module.features);
    if given != wanted {
        let shape: Vec<_> = data.shape.iter().map(ToString::to_string).collect();
        return Err(Failure::new(format!(
            "a sample of `{}` has {given} numbers ({}), the network's input `{}` wants {wanted}",
            path.display(),
            shape.join("x"),
            network.interface.input,
        ))
        .with_help("use data of the network's input size, or a network of the data's"));
    }
    data.check_labels(network.module.classes)?;
    Ok(data)
}

/// Refuses data whose classes have other numbers than those that a network was trained on: a name that both have must
/// have the same number.
///
/// # Errors
/// With the first name that has not.
pub fn check_classes(trained: &[String], data: &Dataset, path: &Path) -> Result<(), Failure> {
    let number = |name: &String| trained.iter().position(|known| known == name);
    let moved = |(class, name)| number(name).filter(|&own| own != class).map(|own| (class, name, own));
    match data.class_names.iter().enumerate().find_map(moved) {
        None => Ok(()),
        Some((class, name, own)) => Err(Failure::new(format!(
            "class `{name}` has number {class} in `{}`, and {own} in the network's training data",
            path.display()
        ))
        .with_help("give data with the classes that the network was trained on")),
    }
}

/// Samples as a step or a prediction takes them; those that are in a file are read into `buffer`.
///
/// # Errors
/// When the file cannot be read.
pub fn samples<'a>(
    split: &'a Split,
    range: std::ops::Range<usize>,
    buffer: &'a mut Vec<u8>,
) -> Result<Samples<'a>, Failure> {
    Ok(match split.rows(range, buffer)? {
        Rows::U8(numbers) => Samples::U8(numbers),
        Rows::F32(numbers) => Samples::F32(numbers),
    })
}

/// The folder for decoded images, as the environment says; `None` where they are not kept.
pub fn cache_folder() -> Option<PathBuf> {
    folder(env::var_os("FFC_CACHE"), |variable| env::var_os(variable), env::home_dir())
}

fn folder(
    own: Option<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    match own {
        Some(own) if own == "off" => return None,
        Some(own) if !own.is_empty() => return Some(own.into()),
        _ => {}
    }
    let system = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_CACHE_HOME" };
    // The standard has relative ones ignored.
    let caches = variable(system).map(PathBuf::from).filter(|folder| folder.is_absolute());
    Some(caches.or_else(|| Some(home?.join(".cache")))?.join("ffc"))
}

/// Shows on a terminal how far decoding is.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Watcher for Progress {
    fn decoded(&mut self, done: usize, of: usize) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style =
                ProgressStyle::with_template("decoding images [{bar:30}] {pos}/{len} {per_sec} {eta} left");
            ProgressBar::new(of as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_position(done as u64);
    }

    fn warn(&mut self, text: &str) {
        let text = format!(
            "warning: {text}\nhelp: name another folder with FFC_CACHE, or keep none with FFC_CACHE=off"
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&text)),
            None => say(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn the_environment_names_the_folder() {
        let found = |own: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
            folder(own.map(Into::into), |_| xdg.map(Into::into), home.map(Into::into))
        };
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(found(Some("here"), Some("/xdg"), Some("/home/u")), at("here"));
        assert_eq!(found(Some("off"), Some("/xdg"), Some("/home/u")), None);
        assert_eq!(found(Some(""), Some("/xdg"), Some("/home/u")), at("/xdg/ffc"));
        assert_eq!(found(None, Some("relative"), Some("/home/u")), at("/home/u/.cache/ffc"));
        assert_eq!(found(None, None, Some("/home/u")), at("/home/u/.cache/ffc"));
        assert_eq!(found(None, None, None), None);
    }
}
