"""The sourcetype of each topic that Alibaba Cloud's products are known to write: data, the first glob that fits wins."""

from __future__ import annotations

#: topic glob, logstore glob → sourcetype. `{topic}` is the topic itself.
TABLE: tuple[tuple[str, str, str], ...] = (
    ("actiontrail_*event", "*", "aliyun:actiontrail"),
    ("*", "actiontrail_*", "aliyun:actiontrail"),
    ("sas-*", "*", "aliyun:sas:{topic}"),
    ("aegis-*", "*", "aliyun:sas:{topic}"),
    ("local-dns", "*", "aliyun:sas:{topic}"),
    ("waf_access_log", "*", "aliyun:waf"),
    ("cloudfirewall_access_log", "*", "aliyun:cfw"),
    ("*", "baston_log", "aliyun:bastionhost"),
    ("rds_audit_log", "*", "aliyun:rds:audit"),
    ("rds_slow_log", "*", "aliyun:rds:slow"),
    ("polardb_audit_log", "*", "aliyun:polardb:audit"),
    ("drds_audit_log", "*", "aliyun:drds:audit"),
    ("oss_access_log", "*", "aliyun:oss:access"),
    ("oss_batch_delete_log", "*", "aliyun:oss:batch_delete"),
    ("oss_metering_log", "*", "aliyun:oss:metering"),
    ("k8s_audit*", "*", "aliyun:ack:audit"),
    ("*", "k8s_ingress_log", "aliyun:ack:ingress"),
    ("*", "k8s_log", "aliyun:ack:audit"),
    ("slb_layer7_access_log", "*", "aliyun:slb:access"),
    ("alb_layer7_access_log", "*", "aliyun:alb:access"),
    ("*", "apigateway_log", "aliyun:apigateway"),
    ("ddoscoo_access_log", "*", "aliyun:ddoscoo"),
    ("ddos_access_log", "*", "aliyun:ddos"),
    ("flow_log", "*", "aliyun:vpcflow"),
    ("dns_*", "*", "aliyun:dns"),
    ("*", "nas_log", "aliyun:nas"),
    ("redis_*", "*", "aliyun:{topic}"),
    ("mongo_*", "*", "aliyun:{topic}"),
    ("cps_callback_event", "*", "aliyun:cps"),
    ("appconnect_oplog", "*", "aliyun:appconnect"),
    ("eip", "*", "aliyun:eip"),
)
UNKNOWN = "aliyun:sls"
