// blocks: a side that is quantised to blocks. format/blocks/pack defines `side_stage`, `side_put` and `side_finish`.

#import ../../format/blocks/pack.wgsl as side
