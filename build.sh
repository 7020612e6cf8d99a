# build.sh SRC BUILD OUT
gcc -O2 -fopenmp -march=x86-64 -I$1 -I$2 /tmp/h/gb/gb.c $2/liblora.a -o $3 $(sed -n 's/^LIBS *[:?]*= *//p' $2/config.mk) -lm -lpthread -ldl 2>&1 | grep -v warning | head -5
