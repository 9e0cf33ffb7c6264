# C++ flags for each source of ours (a standard in --with-cc-opt would reach nginx's C files), and the publisher:
# the shared object with libcurl that only the helper process opens. `make modules` builds both.

ngx_keel_version=$(sed -n 's/^VERSION *:*= *//p' $ngx_addon_dir/Makefile 2>/dev/null)
ngx_keel_flags="-std=c++20 -fvisibility=hidden -DKEEL_VERSION='\"${ngx_keel_version:-unknown}\"'"
ngx_keel_flags="$ngx_keel_flags $(pkg-config --cflags jansson libcrypto)"

cat << END                                                    >> $NGX_MAKEFILE

$NGX_OBJS/addon/$(basename $ngx_addon_dir)/ngx_keel_module.o: CFLAGS += $ngx_keel_flags
END

for part in $ngx_keel_parts; do
    echo "$NGX_OBJS/addon/module/$part.o: CFLAGS += $ngx_keel_flags" >> $NGX_MAKEFILE
done
for part in $ngx_keel_core; do
    echo "$NGX_OBJS/addon/core/$part.o: CFLAGS += $ngx_keel_flags" >> $NGX_MAKEFILE
done

cat << END                                                    >> $NGX_MAKEFILE

modules: $NGX_OBJS/ngx_keel_publisher.so

$NGX_OBJS/ngx_keel_publisher.so: $ngx_addon_dir/src/module/publisher.cpp $ngx_addon_dir/src/module/publisher.h
	\$(CC) -fPIC \$(CFLAGS) $ngx_keel_flags $(pkg-config --cflags libcurl) -I$ngx_addon_dir/src \\
	-shared -o \$@ $ngx_addon_dir/src/module/publisher.cpp $(pkg-config --libs libcurl) -lstdc++
END
