# The echo job of Sidekiq. It keeps no results: a probed job pushes its own onto a list.
# frozen_string_literal: true

require "json"
require "sidekiq"

# The Redis client that Debian has beside it complains of each command that Sidekiq gives the old way.
Redis.silence_deprecations = true

Sidekiq.configure_server do |config|
  config.redis = { url: ENV.fetch("PEER_REDIS_URL") }
  config.logger.level = Logger::WARN
end
Sidekiq.configure_client { |config| config.redis = { url: ENV.fetch("PEER_REDIS_URL") } }

# Echoes, and writes down in a file of this very process that it did.
class Echo
  include Sidekiq::Job

  RECORD = File.open(File.join(ENV.fetch("PEER_DIR"), "done", Process.pid.to_s), File::WRONLY | File::CREAT | File::APPEND, 0o600)
  RECORD.sync = true

  def perform(message, tell = false)
    RECORD.syswrite("#{message["number"]}\n")
    Sidekiq.redis { |redis| redis.rpush("peer_results", JSON.generate(message)) } if tell
  end
end
