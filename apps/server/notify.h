/* SPDX-License-Identifier: MIT
 * What systemd is told of a service, where it asks to be.
 */
#ifndef PG_SERVER_NOTIFY_H
#define PG_SERVER_NOTIFY_H

void notify_service(const char *state); /* "READY=1" */

#endif
