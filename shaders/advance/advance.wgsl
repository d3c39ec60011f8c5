// advance: makes rows valid that the caller's own kernels wrote into the cache. It sets the lengths of the sequences
// and zeroes the gap in front of the new rows. It does not touch the rows themselves.
//
// Grid:    defined by grid/flat or grid/runs, over the rows of the gaps.
// Shapes:  key_planes, value_planes   [plane, slot, dim], one segment of the cache
//          lengths                    see step/lengths
// Bounds:  the host ensures that every slot of every run lies inside its plane; the kernel drops the units past the end
//          of a gap.

#import ../step/workgroup.wgsl
#import ../grid/{flat,runs}.wgsl
#import ../scatter/write/alone.wgsl
#import ../source/none.wgsl as key, value
#import ../planes/{narrow,packed}.wgsl as key, value

const KEY_BINDING = 2u;
const VALUE_BINDING = 3u;

struct Chunk {
    first_plane: u32,   // the chunk's first plane, counted over the whole cache
    planes: u32,
    segment_plane: u32, // the chunk's first plane, counted inside its segment
    sequences: u32,     // room of `lengths`, in the chunk that sets the lengths; 0 in the others
}

@group(0) @binding(0) var<uniform> chunk: Chunk;

// Returns the part of a run that this dispatch writes: the gap.
fn written(run: Run) -> Run {
    return Run(run.group, run.sequence, run.first, run.start, run.start, 0u);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn advance(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    each_unit(group, groups, local);
}
