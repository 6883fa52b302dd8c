#!/bin/sh
# The broker; its storage is formatted at the first start.  KAFKA_HEAP: memory of the JVM.
set -eu
home=/opt/kafka
java_with() {
    exec java -Xms128m "-Xmx${KAFKA_HEAP:-512m}" -XX:+UseG1GC -Djava.awt.headless=true \
        -Dkafka.logs.dir=/var/lib/kafka -Dlog4j2.configurationFile="$home/log4j2.properties" -cp "$home/libs/*" "$@"
}
if [ ! -f /var/lib/kafka/data/meta.properties ]; then
    cluster=$(java_with kafka.tools.StorageTool random-uuid)
    (java_with kafka.tools.StorageTool format -t "$cluster" -c "$home/server.properties")
fi
java_with kafka.Kafka "$home/server.properties"
