//! What to do where there is no adapter: it depends on the machine.

use std::path::Path;

/// What is known of a machine without an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `linux`, `macos`, `windows`, …
    pub os: String,
    /// A container, where the driver is the host's to give.
    pub container: bool,
    /// WSL2: Linux under Windows, whose GPU is behind `/dev/dxg`.
    pub wsl: bool,
    /// NVIDIA's kernel driver is here: `/dev/nvidiactl`.
    pub nvidia: bool,
    /// A GPU's device file: `/dev/dri/renderD128`.
    pub render_node: Option<String>,
    /// Whether that file may be opened.
    pub permitted: bool,
    /// `VK_DRIVER_FILES` or `VK_ICD_FILENAMES`, which hide every other driver.
    pub driver_files: Option<String>,
    /// `WGPU_BACKEND`, which hides every other backend.
    pub backend: Option<String>,
}

impl Facts {
    /// This machine's.
    pub fn gather() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let exists = |path: &str| Path::new(path).exists();
        let nodes = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
        let mut nodes: Vec<_> = nodes
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("renderD")))
            .collect();
        nodes.sort();
        let may_open = |path: &std::path::PathBuf| std::fs::File::options().read(true).write(true).open(path).is_ok();
        Self {
            os: std::env::consts::OS.to_owned(),
            container: exists("/.dockerenv") || exists("/run/.containerenv") || variable("container").is_some(),
            wsl: exists("/dev/dxg")
                || std::fs::read_to_string("/proc/version").is_ok_and(|text| text.to_lowercase().contains("microsoft")),
            nvidia: exists("/dev/nvidiactl"),
            permitted: nodes.first().is_none_or(may_open),
            render_node: nodes.first().map(|path| path.display().to_string()),
            driver_files: variable("VK_DRIVER_FILES").or_else(|| variable("VK_ICD_FILENAMES")),
            backend: variable("WGPU_BACKEND"),
        }
    }

    /// Why a GPU that may well be here is no adapter, and what to do, in one line; the nearest cause first. `None`
    /// where nothing points to a GPU.
    pub fn hint(&self) -> Option<String> {
        let own: &[&str] = match self.os.as_str() {
            "macos" => &["metal", "mtl"],
            "windows" => &["dx12", "d3d12", "vulkan", "vk"],
            _ => &["vulkan", "vk"],
        };
        let hides = |list: &&String| !list.to_lowercase().split(',').any(|name| own.contains(&name.trim()));
        if let Some(list) = self.backend.as_ref().filter(hides) {
            return Some(format!("WGPU_BACKEND={list} leaves out {}: unset it", own[0]));
        }
        if let Some(files) = &self.driver_files {
            return Some(format!("VK_DRIVER_FILES={files} hides every other driver: unset it"));
        }
        let hint = match self.os.as_str() {
            "macos" => "macOS computes with Metal, which virtual machines often lack",
            "windows" => "install the graphics card's driver: it must bring DirectX 12 or Vulkan",
            _ if self.wsl => {
                "under WSL2 a GPU is behind /dev/dxg, for which Mesa's Vulkan driver dzn is needed (newer distributions have \
                 it in mesa-vulkan-drivers); or run the Windows build"
            }
            _ if self.nvidia && self.container => {
                "an NVIDIA GPU is here, but the container was not given its Vulkan driver: start it with \
                 NVIDIA_DRIVER_CAPABILITIES=all, and apt install libvulkan1 in it"
            }
            _ if self.nvidia => {
                "an NVIDIA GPU is here, but not its Vulkan driver: install libvulkan1 and the part of NVIDIA's driver with \
                 nvidia_icd.json (Debian: nvidia-vulkan-icd, Ubuntu: libnvidia-gl)"
            }
            _ => {
                let node = self.render_node.as_ref()?;
                return Some(match self.permitted {
                    true => format!("a GPU is here ({node}), but no Vulkan driver for it: {MESA}"),
                    false => format!(
                        "a GPU is here ({node}), but you may not open it: sudo usermod -aG render $USER, and log in again \
                         (a container: --device /dev/dri)"
                    ),
                });
            }
        };
        Some(hint.to_owned())
    }

    /// What to do where an adapter is needed: what [`Self::hint`] says, else to install a driver in software; the CPU
    /// path is always left.
    pub fn advice(&self) -> String {
        let hint = self.hint().unwrap_or_else(|| format!("no GPU is here; a Vulkan driver in software: {MESA}"));
        format!("{hint}; or use --device cpu")
    }
}

const MESA: &str = "apt install mesa-vulkan-drivers libvulkan1 (Debian, Ubuntu)";

#[cfg(test)]
mod tests {
    use super::*;

    /// Each machine has its own line, and each line names what is special about the machine.
    #[test]
    fn every_machine_has_its_own_advice() {
        let linux = Facts { os: "linux".into(), permitted: true, ..Facts::default() };
        let node = Some("/dev/dri/renderD128".to_owned());
        let machines = [
            (Facts { backend: Some("metal".into()), ..linux.clone() }, "WGPU_BACKEND=metal"),
            (Facts { driver_files: Some("/x.json".into()), nvidia: true, ..linux.clone() }, "VK_DRIVER_FILES=/x.json"),
            (Facts { os: "macos".into(), ..linux.clone() }, "Metal"),
            (Facts { os: "windows".into(), ..linux.clone() }, "DirectX 12"),
            (Facts { wsl: true, ..linux.clone() }, "dzn"),
            (Facts { nvidia: true, container: true, ..linux.clone() }, "NVIDIA_DRIVER_CAPABILITIES"),
            (Facts { nvidia: true, render_node: node.clone(), ..linux.clone() }, "nvidia_icd.json"),
            (Facts { render_node: node.clone(), ..linux.clone() }, "no Vulkan driver for it"),
            (Facts { render_node: node, permitted: false, ..linux.clone() }, "usermod -aG render"),
        ];
        assert_eq!(Facts { backend: Some("dx12, VK".into()), ..linux.clone() }.hint(), None, "nothing is hidden");
        assert_eq!(linux.hint(), None);
        let machines = machines.into_iter().chain([(linux, "no GPU is here")]).collect::<Vec<_>>();
        let lines: Vec<_> = machines.iter().map(|(facts, _)| facts.advice()).collect();
        for (i, ((facts, part), line)) in machines.iter().zip(&lines).enumerate() {
            assert!(line.contains(part) && line.ends_with("--device cpu") && !line.contains('\n'), "{facts:?}: {line}");
            assert!(!lines[..i].contains(line), "{line}");
        }
    }

    #[test]
    fn this_machine_has_some() {
        assert_eq!(Facts::gather().os, std::env::consts::OS);
        assert!(!Facts::gather().advice().is_empty());
    }
}
