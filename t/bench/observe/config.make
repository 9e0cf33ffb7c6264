# As ../../../config.make: the C++ standard for each source of ours.
for source in $ngx_addon_dir/ngx_keel_bench_module.cpp $ngx_keel_sources; do
    object=$(basename $(dirname $source))/$(basename ${source%.*}).o
    echo "$NGX_OBJS/addon/$object: CFLAGS += -std=c++20 -fvisibility=hidden" >> $NGX_MAKEFILE
done
