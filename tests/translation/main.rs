//! Every pass of every shader, translated as wgpu does for Vulkan (SPIR-V), Metal (MSL) and DirectX 12 (HLSL), on
//! every machine. A new shader in `ops::shaders()` is covered without a change here but in the list of hashes.

mod fxc;
mod snapshot;
mod translate;
