#!/bin/sh
# Apache Kafka as the container `redpanda`: the same names, ports and folder. LATE: seconds before it starts.
set -eu
sleep "${LATE:-0}"
folder=/var/lib/redpanda/data/kafka
settings=/tmp/server.properties
cat >"$settings" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
listeners=INTERNAL://:9092,EXTERNAL://:19092,CONTROLLER://127.0.0.1:9093
advertised.listeners=INTERNAL://redpanda:9092,EXTERNAL://127.0.0.1:${EXTERNAL_PORT:?}
listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs=$folder
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
broker.session.timeout.ms=6000
EOF
if [ ! -e "$folder/meta.properties" ]; then
  java -XX:TieredStopAtLevel=1 -cp '/jars/*' kafka.tools.StorageTool format -t cmVoZWFyc2FsLWtsdXN0ZQ -c "$settings"
fi
exec java -Xmx320m -XX:TieredStopAtLevel=1 -cp '/jars/*' kafka.Kafka "$settings"
