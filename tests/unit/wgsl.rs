//! Checks for all WGSL of the crate: it is parsed, validated with the capabilities it declares, and translated for
//! every backend. If `KV_CACHE_WGSL` names a folder, the WGSL is also written there for other compilers. See
//! `scripts/check-tint`.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
};

use crate::kernels::Shader;
use naga::{
    Module,
    back::{glsl, hlsl, msl, spv},
    proc::BoundsCheckPolicies,
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};

/// Parses and validates WGSL.
pub fn module(what: &dyn std::fmt::Debug, text: &str, capabilities: Capabilities) -> (Module, ModuleInfo) {
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .unwrap_or_else(|error| panic!("{what:?}: {}", error.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{what:?}: {}", error.emit_to_string(text)));
    (module, info)
}

/// Workgroup memory that WebGPU's default limits guarantee.
const WORKGROUP_BYTES: u32 = 16_384;

/// The workgroup memory of a module in bytes.
pub fn workgroup_bytes(module: &Module) -> u32 {
    let variables = module.global_variables.iter().map(|(_, variable)| variable);
    let ours = variables.filter(|variable| variable.space == naga::AddressSpace::WorkGroup);
    ours.map(|variable| module.types[variable.ty].inner.size(module.to_ctx()).next_multiple_of(16)).sum()
}

/// Checks a program with one entry point. Each of its constants must be declared as an override.
pub fn check(what: &dyn std::fmt::Debug, kind: &str, program: &Shader, capabilities: Capabilities) -> Module {
    let Shader { text, constants } = program;
    let (module, info) = module(what, text, capabilities);
    let constants = constants.iter().map(|(name, value)| (name.clone(), *value)).collect();
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, None, &constants)
        .unwrap_or_else(|error| panic!("{what:?}: {error:?}"));
    let (module, info) = (module.into_owned(), info.into_owned());
    assert_eq!(module.entry_points.len(), 1, "{what:?}");
    let memory = workgroup_bytes(&module);
    assert!(memory <= WORKGROUP_BYTES, "{what:?} takes {memory} bytes of workgroup memory");
    let name = module.entry_points[0].name.clone();
    let compute = naga::ShaderStage::Compute;
    let options = spv::PipelineOptions { shader_stage: compute, entry_point: name.clone() };
    spv::write_vec(&module, &info, &spv::Options::default(), Some(&options))
        .unwrap_or_else(|error| panic!("SPIR-V of {what:?}: {error}"));
    let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..Default::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|error| panic!("MSL of {what:?}: {error}"));
    let options = hlsl::Options {
        fake_missing_bindings: true,
        immediates_target: Some(hlsl::BindTarget::default()),
        shader_model: hlsl::ShaderModel::V6_2,
        ..Default::default()
    };
    let mut written = String::new();
    hlsl::Writer::new(&mut written, &options, &hlsl::PipelineOptions::default())
        .write(&module, &info, None)
        .unwrap_or_else(|error| panic!("HLSL of {what:?}: {error}"));
    // OpenGL has no f16, and no subgroups in this version.
    if !capabilities.intersects(Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP) {
        let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
        let pipeline = glsl::PipelineOptions { shader_stage: compute, entry_point: name, multiview: None };
        let mut written = String::new();
        glsl::Writer::new(&mut written, &module, &info, &options, &pipeline, BoundsCheckPolicies::default())
            .and_then(|mut writer| writer.write().map(drop))
            .unwrap_or_else(|error| panic!("GLSL of {what:?}: {error}"));
    }
    // WebGPU has no immediates, and a browser gets no operations on subgroups.
    let browsers = !capabilities.intersects(Capabilities::IMMEDIATES | Capabilities::SUBGROUP);
    if let Some(folder) = std::env::var_os("KV_CACHE_WGSL").filter(|_| browsers) {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let path = std::path::Path::new(&folder).join(format!("{kind}-{:016x}.wgsl", hasher.finish()));
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    module
}
