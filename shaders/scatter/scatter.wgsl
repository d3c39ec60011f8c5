// scatter: writes new rows of keys and values into the cache, converts or quantises them, zeroes the gap in front of
// them, and sets the lengths of the sequences.
//
// Grid:    defined by grid/flat or grid/runs.
// Shapes:  key_source, value_source   strided [sequence, head, token, dim], a window of the caller's buffer
//          key_planes, value_planes   [plane, slot, dim], one segment of the cache
//          lengths                    see step/lengths
// Bounds:  the host ensures that every slot of every run lies inside its plane and every token of every run inside the
//          source window; the kernel drops the units past the end of a run.
// Choices: `WriteVariant::text` and `SideVariant::choose`. For example, f32 rows into q8_0 take together, narrow and
//          packed, then stage/blocks and format/q8_0/pack.

#import ../step/workgroup.wgsl
#import ../grid/{flat,runs}.wgsl
#import write/{alone,together}.wgsl
#import ../source/{wide,narrow}.wgsl as key, value
#import ../planes/{wide,narrow,packed}.wgsl as key, value

const KEY_BINDING = 2u;
const VALUE_BINDING = 3u;
const KEY_SOURCE_BINDING = 4u;
const VALUE_SOURCE_BINDING = 5u;
// Index of each side's scale in `lengths`, counted back from the end.
const KEY_SCALE_FROM_END = 2u;
const VALUE_SCALE_FROM_END = 1u;

// Whether some chunk holds only part of the source's tokens.
override CUT_BY_TOKENS: bool;

struct Chunk {
    first_plane: u32,    // the chunk's first plane, counted over the whole cache
    planes: u32,
    segment_plane: u32,  // the chunk's first plane, counted inside its segment
    sequences: u32,      // room of `lengths`, in the chunk that sets the lengths; 0 in the others
    first_token: u32,    // this chunk writes the tokens [first_token, end_token) of the source
    end_token: u32,
    first_sequence: u32, // sequence and head of the source window's first row
    first_head: u32,
    key_offset: u32,     // elements from the start of the binding to that row; strides are in elements too
    key_sequence_stride: u32,
    key_head_stride: u32,
    key_token_stride: u32,
    value_offset: u32,
    value_sequence_stride: u32,
    value_head_stride: u32,
    value_token_stride: u32,
}

@group(0) @binding(0) var<uniform> chunk: Chunk;

// Returns the part of a run that this dispatch writes: the rows whose tokens belong to the chunk. The chunk of the
// token after a gap writes the gap. If no token follows it, the chunk of the source's first tokens does.
fn written(run: Run) -> Run {
    if !CUT_BY_TOKENS {
        return run;
    }
    if run.start == run.end && chunk.first_token == 0u {
        return run;
    }
    let low = max(run.token, chunk.first_token);
    let high = min(run.token + (run.end - run.start), chunk.end_token);
    if low >= high {
        return Run();
    }
    let start = run.start + (low - run.token);
    let end = run.start + (high - run.token);
    return Run(run.group, run.sequence, select(start, run.first, low == run.token), start, end, low);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    each_unit(group, groups, local);
}
