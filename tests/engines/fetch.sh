#!/usr/bin/env bash
# Fetch Flink, Spark and Beam's job servers for the tests on real clusters: fetch.sh FOLDER. About a minute, 2 GB of
# disk, from the package registries of Python and Java. Versions and checksums are pinned; what is there is kept.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="$(mkdir -p "$1" && cd "$1" && pwd)"
python="${PYTHON:-python3}"
for program in java mvn "$python"; do
  command -v "$program" >/dev/null || { echo "Fetching the engines needs '$program': install it." >&2; exit 2; }
done

# Folders of their own: apache-flink asks for another Beam. One command for both wheels of Flink: pip --target leaves
# out the second part of a package.
for engine in flink spark; do
  if [ ! -f "$folder/$engine/done" ]; then
    rm -rf "${folder:?}/$engine"
    "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
      -r "$here/$engine.txt" --target "$folder/$engine"
    touch "$folder/$engine/done"
  fi
done
chmod +x "$folder"/flink/pyflink/bin/*.sh "$folder"/spark/pyspark/bin/*
for file in flink/pyflink/lib/flink-dist-1.19.3.jar flink/pyflink/bin/bash-java-utils.jar spark/pyspark/bin/spark-class; do
  [ -f "$folder/$file" ] || { echo "'$folder/$file' is missing: remove '$folder' and fetch again." >&2; exit 1; }
done

# The official job servers are fat jars as well; these are made of the same parts, each with its checksum.
for engine in flink spark; do
  parts="$folder/$engine-job-server"
  [ -f "$parts/done" ] && continue
  rm -rf "$parts"
  mvn -B -q --strict-checksums -f "$here/pom.xml" -P "$engine" -Dfolder="$parts" package
  (cd "$parts/parts" && sha256sum --quiet --strict -c "$here/$engine-parts.sha256")
  rm -rf "$parts/parts" "$parts"/original-* "$parts/maven-archiver"
  touch "$parts/done"
done
